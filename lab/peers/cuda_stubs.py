"""Makes PyPI's torch for Linux importable without the CUDA libraries that it links, 3 GB that a CPU never calls.

Each library that torch's own ones need and that isn't there is replaced by one of the same name whose functions, of the
same names and versions, return an error. Run by the Python whose torch is meant; needs gcc, readelf and nm."""

import glob
import os
import re
import subprocess
import sysconfig
import tempfile
from collections import defaultdict

FOLDER = os.path.join(sysconfig.get_paths()["purelib"], "torch", "lib")
CUDA = re.compile(r"lib(cu|nv|nccl)")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def main():
    needed, defined = set(), set()
    # Symbols that are needed: by the version that they carry, or None.
    wanted = defaultdict(set)
    # Which library has which versions.
    versions = defaultdict(set)
    for library in glob.glob(f"{FOLDER}/lib*.so"):
        needed.update(re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "-dW", library)))
        file = None
        for line in output("readelf", "-VW", library).splitlines():
            if found := re.search(r"File: (\S+)", line):
                file = found[1]
            elif file and (found := re.search(r"Name: (\S+)\s+Flags", line)):
                versions[file].add(found[1])
        for line in output("nm", "-D", library).splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            if kind == "U":
                wanted[version.lstrip("@") or None].add(name)
            else:
                defined.add(name)
    missing = sorted(
        name for name in needed if CUDA.match(name) and not os.path.exists(f"{FOLDER}/{name}")
    )
    unversioned = {name for name in wanted[None] - defined if re.match(r"(cu|nv|nccl|__cuda|__nv)", name, re.I)}
    for library in missing:
        groups = {version: wanted[version] for version in versions[library]}
        if library == missing[0]:
            # Any library will do for those that name none.
            build(library, groups, unversioned)
        else:
            build(library, groups, set())
        print(library)


def build(library, groups, unversioned):
    symbols = sorted(set().union(unversioned, *groups.values()))
    with tempfile.TemporaryDirectory() as folder:
        source, script = f"{folder}/stub.c", f"{folder}/stub.map"
        with open(source, "w") as file:
            file.writelines(f"int {name}(void) {{ return 100; }}\n" for name in symbols)
            file.writelines(f"int version_{at};\n" for at in range(len(groups)))
        command = ["gcc", "-w", "-shared", "-fPIC", "-fno-builtin", source, f"-Wl,-soname,{library}"]
        if groups:
            with open(script, "w") as file:
                for at, (version, names) in enumerate(sorted(groups.items())):
                    names = "".join(f"{name}; " for name in sorted(names))
                    file.write(f"{version} {{ global: version_{at}; {names}}};\n")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run([*command, "-o", f"{FOLDER}/{library}"], check=True)


main()
