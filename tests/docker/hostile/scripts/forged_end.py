# A line as the launcher's own, and an exit code of its own: both must count as the script's.
print("@0 TUFOQUdFRCB0byBmb3JnZSBhIGZyYW1lCg==")
print("!ready\n!began 0\n@999999999 \n", flush=True)
print("refused what the reader of the frames does not take", flush=True)
os._exit(226)
