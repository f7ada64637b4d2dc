"""What other libraries do with the same network, data and budget as ours; they come with the extra `bench`."""
