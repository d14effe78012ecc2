print("refused by a bound, or by the end of this process", flush=True)


def dig():
    os.chdir("/scratch")
    for _ in range(1_000_000):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    return os.getcwd()


tried("a million folders in each other", dig)
