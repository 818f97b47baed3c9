"""Layouts of data sets on disk: webdataset, parquet, arrow and imagefolder are read; overlay is a plan beside any of them."""

from corruptkit.formats import arrow, imagefolder, parquet, webdataset
from corruptkit.formats.layout import FormatName, Reader

FORMATS: dict[FormatName, Reader] = {"webdataset": webdataset, "parquet": parquet, "arrow": arrow, "imagefolder": imagefolder}
