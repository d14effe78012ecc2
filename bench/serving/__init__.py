"""Our model server beside its peers: same model, same bodies, same machine, one after the other."""
