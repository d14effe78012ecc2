for process in ("1", "self"):
    for score in ("0", "-1", "-500", "-1000"):
        tried(f"{process} {score}", lambda: write(f"/proc/{process}/oom_score_adj", score))
        tried(f"{process} {score}, the old way", lambda: write(f"/proc/{process}/oom_adj", score))
