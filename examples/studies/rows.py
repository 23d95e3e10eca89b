def load(options):
    return None
