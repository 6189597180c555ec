"""The recogniser over HTTP and WebSocket, and its web page: a thin shell over files, timelines and streams."""
