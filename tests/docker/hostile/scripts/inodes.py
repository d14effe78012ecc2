print("refused by the end of this process, if that is the last line", flush=True)
for folder in ("/tmp", "/scratch"):

    def fill(folder=folder):
        for number in range(2_000_000):
            open(f"{folder}/{number}", "w").close()
        return number

    tried(f"two million files in {folder}", fill)
