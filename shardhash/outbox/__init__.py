"""Journals: lists on the disk that grow at one end and are taken from at the other."""
