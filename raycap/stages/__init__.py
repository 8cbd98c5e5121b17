"""The stages, a module each; they never import each other, and meet through files on storage."""
