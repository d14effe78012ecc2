for path in (
    "sys/kernel/core_pattern",
    "sys/vm/overcommit_memory",
    "sys/net/ipv4/ip_forward",
    "sys/kernel/modprobe",
    "sysrq-trigger",
    "sys/fs/binfmt_misc/register",
    "sys/kernel/hostname",
    "irq/default_smp_affinity",
    "self/attr/current",
):
    tried(f"/proc/{path}", lambda: write(f"/proc/{path}", "0"))
for process in ("1", "self"):
    for score in ("-1", "-1000"):
        tried(
            f"a score of {score} for {process}",
            lambda: write(f"/proc/{process}/oom_score_adj", score),
        )
for path in ("kcore", "keys", "timer_list", "sched_debug", "scsi/scsi"):

    def look(path=path):
        content = open(f"/proc/{path}", "rb").read(64)
        if not content:
            raise OSError("empty")
        return content

    tried(f"reading /proc/{path}", look)
