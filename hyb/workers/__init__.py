"""What needs torch or numpy: run as `python -m hyb.workers.NAME job.json` by `hyb.engine.worker`, imported by nobody."""
