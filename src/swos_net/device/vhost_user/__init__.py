"""vhost-user: a guest's network card whose other end is this process.

device.py joins the others: message.py (wire layout), session.py (negotiation), connection.py (socket), rings.py
(memory and descriptors).
"""
