"""The report: what a run left on storage, as one HTML file. Knows neither Ray nor TensorFlow."""
