"""What a task MAKE_SWARM_USER_CONTENT leaves in a volume: downloads, and archives unpacked.

Does not decide which URLs are allowed, and puts nothing into volumes: it fills a directory.
"""
