"""Model parameters as one canonical buffer: manifest, layout, chunk commitments.

Arrays in, bytes out, and back; knows nothing of frameworks, rounds or networks. Spec: docs/spec/parameters.md.
"""
