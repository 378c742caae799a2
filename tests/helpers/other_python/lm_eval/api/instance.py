class Instance:
    def __init__(self, kind, doc, arguments, idx):
        self.args = arguments
