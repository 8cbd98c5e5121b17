"""Submit stages to a Ray cluster from Python, and follow them: for a scheduler, or a notebook.

    export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265
    python examples/submit_to_a_cluster.py s3://BUCKET/prepared s3://BUCKET/features --num-gpus 1 --num-workers 8

docs/cluster.md has the cluster. Locations must mean the same on all its nodes.
"""

import asyncio
import shlex
import sys
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

CHECKOUT = Path(__file__).resolve().parents[1]  # sent to the cluster: jobs/, and the code as it is here


def main(prepared: str, features: str, *options: str) -> int:
    """Extract features on the cluster; return 0 if the job succeeded."""
    client = JobSubmissionClient()  # at RAY_API_SERVER_ADDRESS, with the token in ~/.ray/auth_token
    command = ["python", "jobs/extract.py", "--manifest", f"{prepared}/photos.parquet", "--out", features, *options]
    job = client.submit_job(entrypoint=shlex.join(command), runtime_env={"working_dir": str(CHECKOUT)})
    print(f"submitted {job}; it goes on if this is interrupted")
    asyncio.run(follow(client, job))
    return 0 if client.get_job_status(job) == JobStatus.SUCCEEDED else 1


async def follow(client: JobSubmissionClient, job: str) -> None:
    """Print what the job prints, until it ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
