"""The paper's benchmarks, from local files: prompts, reference answers, and what is right."""
