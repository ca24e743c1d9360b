"""Pretraining shards that other projects made: masked, padded samples, read as they are.

files    what a file or folder holds, as one ForeignFile a file
hdf5     NVIDIA's HDF5 layouts             tfrecord, tf_example   BERT TFRecords
source   samples of a run by their number, for the loader
recovery, importing   samples back to text, for data_tools/import_shards.py
"""
