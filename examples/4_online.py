"""Go online: a server on this machine, a client that sends a scan as a scanner does, and the maps that come back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _tutorial import PROGRAM, THREADS, crbsvd, enter, say

CLIENT = Path(__file__).resolve().parent / "online_client.py"


def main() -> None:
    """Make FOLDER/bases and FOLDER/scan.h5, serve, send and list the images."""
    enter(__doc__)

    say("the bases that the server may use lie in one folder; and something to send")
    Path("bases").mkdir(exist_ok=True)
    crbsvd("basis mrf-fisp -o bases/fisp --train 2000 --atoms 8000")
    crbsvd("simulate mrf-fisp -o scan.h5 --matrix 48 --coils 4 --shots 1")

    say("the server; port 0 is any that is free, the usual one is 9002")
    print("$ crbsvd serve --bases bases --port 0 &")
    serve = [*PROGRAM, "serve", "--bases", "bases", "--port", "0", *THREADS]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            told = server.stdout.readline() if server.stdout else ""
            print(told, end="")

            say("the scanner: sends readouts, names the basis, and gets images with their units")
            address = f"localhost:{told.split()[-1]}"
            config = '{"parameters": {"basis": "fisp", "iterations": "15"}}'
            print(f"$ python online_client.py scan.h5 {address} --config '{config}'", flush=True)
            done = subprocess.run([sys.executable, CLIENT, "scan.h5", address, "--config", config], check=False)
        finally:
            server.terminate()
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
