"""The container engine: its endpoint, images, containers, and the streams of commands in a container."""
