"""Encode in a process that `encode.py devices=N` has started, and that ends with it."""

from dpr_lightning.encoding.devices import end_with_parent

if __name__ == "__main__":
    end_with_parent()  # before the imports of the command, which take seconds
    from dpr_lightning.commands.encode import encode

    encode()
