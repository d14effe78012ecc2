# Fixed addresses, readable means executable, another kernel's calls, the page at 0.
for name, flag in (
    ("fixed addresses", 0x40000),
    ("all executable", 0x400000),
    ("page 0", 0x100000),
):

    def become(flag=flag):
        call("personality", flag)
        if call("personality", 0xFFFFFFFF) & flag == 0:
            raise OSError("it is not kept")

    tried(name, become)
