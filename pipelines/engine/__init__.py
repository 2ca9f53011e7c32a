"""Where containers run: the engine, its images, and the streams of what runs in a container."""
