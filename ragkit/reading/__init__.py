"""How the bytes of each kind of file become text; `ragkit.documents` is the way in."""
