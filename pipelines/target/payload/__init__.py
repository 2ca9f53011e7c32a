"""The programs that run on libvirt's host. The package is sent there as one zip file, see `pipelines.target.programs`.

Standard library only, Python 3.9 or newer. Modules import each other relatively, since the package has another name in
the zip file.
"""
