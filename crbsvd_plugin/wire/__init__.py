"""Messages of ISMRMRD streams (MRD version 1): bounded reading, writing in the dialect of the peer.

A message is a number (uint16) and a body. Bodies are those of the package `ismrmrd`; here is what it lacks: an end of
the stream that is noticed, sizes that are checked before anything is allocated, text that ends with NULs, messages of
Gadgetron, and errors in the words of who listens.
"""
