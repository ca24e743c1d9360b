"""HDF5 files whose data lies in the file itself, read by what the HDF5 library itself contains.

HDF5 can name other files (external and soft links, virtual datasets, external storage), and filters
that it loads as programs from a folder of plug-ins. A file from somebody else could read any file
of this machine that way, so none of these is followed.
"""

from __future__ import annotations

from collections.abc import Iterable

import h5py
from h5py import h5l, h5z

_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}
_FILTERS = (
    h5z.FILTER_DEFLATE,
    h5z.FILTER_SHUFFLE,
    h5z.FILTER_FLETCHER32,
    h5z.FILTER_SZIP,
    h5z.FILTER_NBIT,
    h5z.FILTER_SCALEOFFSET,
    h5z.FILTER_LZF,
)
_CURE = (
    "only files that contain their data are read: write it again as plain HDF5 (h5py, or h5repack)"
)


class Hdf5Refused(Exception):
    """What in a file is not read, and why, in one line without the file's name."""


def require_own_links(file: h5py.File) -> None:
    """Raise ``Hdf5Refused`` if an entry of the root group is not a hard link; follows none."""
    root = file.id
    for name in root:
        kind = root.links.get_info(name).type
        if kind != h5l.TYPE_HARD:
            what = _LINKS.get(kind, "a link of a kind defined by a user")
            raise Hdf5Refused(f"{name.decode(errors='replace')!r} is {what}; {_CURE}")


def require_own_data(file: h5py.File, names: Iterable[str]) -> None:
    """Raise ``Hdf5Refused`` for data outside the file or a filter of a plug-in.

    Call :func:`require_own_links` first. Names that are not datasets are skipped.
    """
    for name in names:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            continue
        creation = dataset.id.get_create_plist()
        if creation.get_layout() == h5py.h5d.VIRTUAL:
            raise Hdf5Refused(f"{name!r} is a virtual dataset; {_CURE}")
        if creation.get_layout() == h5py.h5d.CONTIGUOUS and creation.get_external_count():
            raise Hdf5Refused(f"{name!r} is stored in other files; {_CURE}")
        for number in range(creation.get_nfilters()):
            code = creation.get_filter(number)[0]
            if code not in _FILTERS:
                raise Hdf5Refused(f"{name!r} needs the filter {code} of a plug-in; {_CURE}")
