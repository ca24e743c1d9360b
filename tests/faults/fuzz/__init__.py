"""Every reader of files is given damaged and hostile inputs: what ends otherwise than in one line is a fault."""
