"""The REST service: the command interface for programs, over mutual TLS. Spec: docs/spec/swci-rest.md.

`serve` runs it; `service` answers requests, for existing clients as the product did and typed below `/v1`.
"""
