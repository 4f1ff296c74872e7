"""Power cuts on a real file system: a recorded block device, and what a cut at any point leaves of it.

    device.py         the device: nbdkit (nbdkit_plugin.py) -> nbdfuse -> loop, and reading its record
    workload.py       the process that uses a store on it, and writes down what it was told
    __main__.py       records one run, makes states of it, mounts each, and looks; prints one line of JSON

It needs root, and the Debian packages nbdkit, nbdkit-plugin-python, libnbd-bin, e2fsprogs, xfsprogs and util-linux.
"""
