"""A session of pyvmomi with the host, on one connection."""

import ssl

from pyVim.connect import SmartConnect


def connect(address):
    """Logs in to HOST:PORT. Accepts every certificate."""
    host, port = address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return SmartConnect(host=host, port=int(port), user="root", pwd="otter", sslContext=context)
