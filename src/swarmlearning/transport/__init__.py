"""How nodes talk: requests and streams over HTTP/1.1 on TLS 1.3 with client certificates, and an in-memory twin.

`api` is the seam, `server` and `client` the network implementation, `memory` the twin for tests and the simulator;
`route` tells by which address this machine is reached.
Does not know what is said: methods are names, bodies are bytes.
"""
