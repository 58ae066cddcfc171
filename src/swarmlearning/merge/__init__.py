"""Merge methods: arrays in, arrays out. The same bits on every machine. Spec: docs/spec/merging.md."""
