"""Small scripts that look at what a script can see of the Python that runs it."""

SCRIPTS = {
    "the launcher is closed to it": (
        "import os\n"
        "for name in ('fd', 'mem', 'environ', 'cwd'):\n"
        "    try:\n        print(os.listdir('/proc/1/fd') if name == 'fd' else"
        " open(f'/proc/1/{name}', 'rb').read(1))\n"
        "    except OSError as error:\n        print(name, error.errno)\n"
    ),
    "exit with a number": "import sys\nprint('x')\nsys.exit(3)\n",
    "exit with words": "import sys\nsys.exit('words')\n",
    "exit with nothing": "raise SystemExit\n",
    "exit with another thing": "raise SystemExit(['a', 2])\n",
    "exit with a large number": "raise SystemExit(2**20 + 5)\n",
    "exit at once": "import atexit, os\natexit.register(print, 'never')\nos._exit(7)\n",
    "uncaught": (
        "def inner():\n    return {}['key']\n\n"
        "def outer():\n    try:\n        inner()\n"
        "    except KeyError as error:\n        raise ValueError('because') from error\n\n"
        "outer()\n"
    ),
    "uncaught group": "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])\n",
    "interrupted": "raise KeyboardInterrupt\n",
    "no syntax": "def f(:\n    pass\n",
    "no indentation": "if True:\nprint(1)\n",
    "a null byte": "print(1)\n\0\n",
    "missing module": "import surely_not_there\n",
    "an exception hook": (
        "import sys\n"
        "def hook(kind, value, trace):\n"
        "    print('hook', kind, value, trace.tb_frame.f_code.co_filename, trace.tb_next)\n"
        "sys.excepthook = hook\n1 / 0\n"
    ),
    "a broken exception hook": (
        "import sys\nsys.excepthook = lambda *a: 1 / 0\nraise ValueError('first')\n"
    ),
    "terminates itself": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "interrupts itself": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint(1)\n",
    "crashes": "import ctypes\nctypes.string_at(0)\n",
    "aborts": "import os\nos.abort()\n",
    "the end": (
        "import atexit, threading, time, weakref\n"
        "atexit.register(print, 'first in, last out')\n"
        "atexit.register(print, 'last in, first out')\n"
        "class A: pass\n"
        "a = A()\n"
        "weakref.finalize(a, print, 'finalized')\n"
        "class B:\n    def __del__(self): print('deleted')\n"
        "b = B()\n"
        "def late():\n    time.sleep(0.3)\n    print('from a thread', threading.main_thread())\n"
        "threading.Thread(target=late).start()\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print('main is over')\n"
    ),
    "processes": (
        "import multiprocessing, os\n"
        "class Given:\n    def __init__(self, x): self.x = x\n"
        "def work(given): return given.x ** 2, __name__\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(way).Pool(2) as pool:\n"
        "            print(way, pool.map(work, [Given(1), Given(2)]))\n"
    ),
    "it learns": (
        "import numpy as np\n"
        "from sklearn.ensemble import RandomForestClassifier\n"
        "x = np.arange(80).reshape(40, 2)\ny = x[:, 0] > 40\n"
        "model = RandomForestClassifier(n_estimators=8, n_jobs=2, random_state=0).fit(x, y)\n"
        "from joblib import Parallel, delayed\n"
        "print(model.predict_proba(x[:2]))\n"
        "print(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)))\n"
    ),
    "it tracks": (
        "import mlflow, os\n"
        "os.chdir('/scratch')\n"
        "mlflow.set_tracking_uri('file:/scratch/runs')\n"
        "with mlflow.start_run() as run:\n    mlflow.log_param('a', 1)\n"
        "print(mlflow.get_run(run.info.run_id).data.params)\n"
        "print(mlflow.get_run(run.info.run_id).data.tags['mlflow.source.name'])\n"
    ),
}

# These go on to the next, in this order: the first tells of its module, the last ends it. One tells
# whether a waiting Python ran them, which nothing else may.
GO_ON = {
    "its module": (
        '"""Words."""\n'
        "x: int = 3\n"
        "print(__name__, __file__, __spec__, __package__, __doc__, __annotations__)\n"
        "print(type(__loader__).__name__, __loader__.path, __loader__.name, sorted(globals()))\n"
        "import __main__, sys\n"
        "print(__main__.x, sys.modules['__main__'] is __main__, vars(__main__) is globals())\n"
    ),
    "its paths": (
        "import os, sys\n"
        "print(sys.argv, sys.orig_argv, sys.path, os.getcwd(), sys.executable, sys.prefix)\n"
        "print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode)\n"
        "print('sitecustomize' in sys.modules, 'usercustomize' in sys.modules, sys.meta_path[:3])\n"
    ),
    "signals": (
        "import signal\n"
        "print([(s.name, str(signal.getsignal(s)).partition(' at ')[0])"
        " for s in sorted(signal.valid_signals()) if isinstance(s, signal.Signals)])\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print([l for l in lines if l.startswith(('SigBlk', 'SigIgn', 'SigCgt', 'ShdPnd'))])\n"
    ),
    "the process": (
        "import ctypes, os, resource\n"
        "m = os.umask(0)\n"
        "print(oct(m), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.getppid())\n"
        "print([resource.getrlimit(r) for r in range(16)])\n"
        "print(os.getuid(), os.getgroups(), os.nice(0))\n"
        "print(sorted(os.listdir('/proc/self/fd')), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
        "print(len(os.listdir('/proc/self/task')), open('/proc/self/comm').read())\n"
        "print(sorted(p for p in os.listdir('/proc') if p.isdigit() and int(p) < 3))\n"
        "print(os.stat('/proc/self/fd').st_uid, os.sched_getaffinity(0))\n"
    ),
    "threads": (
        "import gc, sys, threading\n"
        "print(threading.enumerate()[0].name, threading.active_count(), sys.getrecursionlimit())\n"
        "print(threading.current_thread() is threading.main_thread(), sys.getswitchinterval())\n"
        "print(gc.isenabled(), gc.get_threshold(), threading.stack_size(), sys.gettrace())\n"
    ),
    "the stack": (
        "import inspect, sys, traceback\n"
        "def f():\n    traceback.print_stack()\n    print(len(inspect.stack()))\n"
        "f()\nprint(sys._getframe().f_back)\n"
    ),
    "warnings": (
        "import warnings\n"
        "warnings.warn('here')\n"
        "def f():\n    warnings.warn('there', DeprecationWarning, stacklevel=2)\n"
        "f()\nwarnings.warn('beyond', stacklevel=5)\n"
    ),
    "logging": (
        "import logging\n"
        "logging.warning('without a handler, so far')\n"
        "logging.getLogger('mine').error('error', stack_info=True)\n"
        "print(logging.root.handlers, logging.root.level)\n"
    ),
    "variables": (
        "import ctypes, os\n"
        "names = ('HOSTNAME', '_MLFLOW_TELEMETRY_SESSION_ID')\n"
        "ours = lambda n: n.startswith('KMP_') or n in names\n"
        "print(sorted((n, v) for n, v in os.environ.items() if not ours(n)))\n"
        "get = ctypes.CDLL(None).getenv\nget.restype = ctypes.c_char_p\n"
        "print(get(b'GIVEN'), get(b'MLOPS_WAITING_FD'), type(os.environ))\n"
        "os.system('echo $GIVEN')\n"
    ),
    "chance": (
        "import random\n"
        "import numpy\n"
        "random.seed(1)\nnumpy.random.seed(1)\n"
        "print(random.random(), numpy.random.rand(), numpy.random.get_state()[0])\n"
    ),
    "pickles": (
        "import pickle, copy\n"
        "class A:\n    x = 1\n"
        "print(pickle.dumps(A()), type(pickle.loads(pickle.dumps(A()))) is A, A.__module__)\n"
    ),
    "a subprocess": (
        "import subprocess, sys\n"
        "code = 'import sys; print(sys.path, sys.argv, __name__)'\n"
        "print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True))\n"
        "print(subprocess.run('cat; echo $0', shell=True, capture_output=True, text=True))\n"
    ),
    "an event loop": (
        "import asyncio\n"
        "async def main():\n"
        "    pipe = asyncio.subprocess.PIPE\n"
        "    p = await asyncio.create_subprocess_exec('echo', 'x', stdout=pipe)\n"
        "    print(await p.communicate(), await asyncio.to_thread(lambda: 5))\n"
        "asyncio.run(main())\n"
    ),
    "the locale": (
        "import locale, sys, time\n"
        "print(locale.setlocale(locale.LC_ALL), locale.getencoding())\n"
        "print(sys.getfilesystemencoding())\n"
        "print(time.tzname, time.timezone, sys.flags.utf8_mode)\n"
    ),
    "its source": (
        "import inspect, linecache\n"
        "def f():\n    return 1\n"
        "print(inspect.getsource(f), inspect.getfile(f), f.__code__.co_filename)\n"
        "print(linecache.getline(__file__, 1))\n"
    ),
    "output": (
        "import os, sys\n"
        "for s in (sys.stdout, sys.stderr):\n"
        "    print(s.encoding, s.errors, s.line_buffering, s.write_through, s.name, s.isatty())\n"
        "print('a', end='')\nos.write(2, b'b')\nprint('c', file=sys.stderr)\n"
        "os.write(1, b'\\xff\\n')\nprint('\\u20ac')\nprint(os.fstat(1) == os.fstat(2))\n"
    ),
    "fails in a thread": (
        "import threading\n"
        "def fails():\n    raise ValueError('in a thread')\n"
        "t = threading.Thread(target=fails, name='mine')\nt.start()\nt.join()\n"
    ),
    "its imports": "import sys\nprint('imports are done:', 'pandas' in sys.modules)\n",
    "input": (
        "import os, sys\n"
        "print(repr(sys.stdin.read()), sys.stdin.isatty(), os.readlink('/proc/self/fd/0'))\n"
        "print(sys.stdin.encoding, sys.stdin.errors, sys.stdin.name)\n"
        "input()\n"
    ),
}
TOGETHER = "".join(f"{source}print('--- so far: {name}')\n" for name, source in GO_ON.items())

# What importing may leave behind, one line each, so that a difference names itself.
LEFT_BY_IMPORTS = """\
import atexit, codecs, decimal, gc, locale, logging, os, random, signal, socket, sys, threading
import warnings
own = ("HOSTNAME", "_MLFLOW_TELEMETRY_SESSION_ID")
print("modules", sorted(sys.modules))
print("filters", warnings.filters)
print("variables", sorted((n, v) for n, v in os.environ.items() if n not in own))
loggers = logging.root.manager.loggerDict
print("loggers", [(n, type(loggers[n]).__name__, getattr(loggers[n], "level", None),
                   [type(h).__name__ for h in getattr(loggers[n], "handlers", [])])
                  for n in sorted(loggers)])
print("root", logging.root.handlers, logging.root.level, logging.getLoggerClass().__name__)
print("path", sys.path, sys.argv, sys.orig_argv)
print("finders", [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path],
      len(sys.path_hooks))
print("threads", sorted(t.name for t in threading.enumerate()), len(os.listdir("/proc/self/task")))
print("signals", [str(signal.getsignal(s)).partition(" at ")[0] for s in sorted(
    signal.valid_signals()) if isinstance(s, signal.Signals)])
print("at the end", atexit._ncallbacks())
print("hooks", sys.excepthook, sys.displayhook, sys.unraisablehook, sys.gettrace())
print("limits", sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold())
print("locale", locale.setlocale(locale.LC_ALL), decimal.getcontext(), socket.getdefaulttimeout())
print("open", sorted(os.readlink(f"/proc/self/fd/{n}").partition(":")[0]
                     for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")))
print("children", open("/proc/self/task/%d/children" % os.getpid()).read())
print("files", sorted(os.listdir("/scratch")), sorted(os.listdir("/tmp")), os.getcwd(), os.umask(0))
import numpy, pandas
print("numpy", numpy.get_printoptions(), numpy.geterr())
print("pandas", pandas.get_option("display.max_rows"), pandas.get_option("display.precision"))
"""
