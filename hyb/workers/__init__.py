"""What needs torch or numpy: run as `python -m hyb.workers.NAME job.json` by `hyb.engine.worker`.

Nobody imports it.
"""
