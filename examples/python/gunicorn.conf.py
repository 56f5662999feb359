import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
# Threads keep idle connections from holding a worker.
threads = 4
# On SIGTERM workers finish what they are doing, for at most this many seconds.
graceful_timeout = 25
# Workers say that they are alive through a file; memory is quicker than a container's disk.
worker_tmp_dir = "/dev/shm"
