from raycap.metrics import METRICS, PROTOCOLS
from raycap.published import PUBLISHED
from raycap.schema import SPLITS


def test_published_scores_are_named_as_ours_are():
    for each in PUBLISHED:
        assert each.protocol in PROTOCOLS
        assert each.split in SPLITS
        assert each.scores.keys() <= METRICS.keys()
        assert all(0 < score < 1 for score in each.scores.values())
    assert len({(each.name, each.protocol) for each in PUBLISHED}) == len(PUBLISHED)


def test_the_figures_of_the_model_that_raycap_builds():
    scores = {(each.name, each.protocol): list(each.scores.values()) for each in PUBLISHED}
    merge = [0.600, 0.413, 0.273, 0.178, 0.193, 0.444, 0.469]
    assert scores["merge model, mean of three runs", "standard"] == merge
    assert scores["tutorial's merge model", "tutorial"] == [0.579, 0.345, 0.252, 0.131]
