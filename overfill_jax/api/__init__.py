"""The public face for notebooks: the pipeline in a dozen names, on models held in memory.

Every function takes and gives what the stages write to a workdir, so that a notebook can start
where a job ended and the other way round.
"""
