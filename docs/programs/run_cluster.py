"""Run the program of the page on several processes in two of them: python run_cluster.py [--write]

With --write, what it prints becomes the text that the page shows. It is left out where mpi4py or mpiexec is missing.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "generated" / "output" / "cluster.txt"


def main(write: bool) -> int:
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if launcher is None or importlib.util.find_spec("mpi4py") is None:
        print("left out: there is no mpiexec, or no mpi4py")
        return 0
    command = [launcher, "-n", "2", sys.executable, str(HERE / "cluster.py")]
    environment = {"PYTHONWARNINGS": "ignore", "POCL_MAX_PTHREAD_COUNT": "1", **os.environ}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode == 0 and write:
        OUTPUT.write_text(done.stdout)
    return done.returncode or int(done.stdout != OUTPUT.read_text())


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
