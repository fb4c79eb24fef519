"""``speed``: how fast the in-house attacks are beside other libraries', on this machine."""
