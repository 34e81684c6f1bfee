//! Sources of objects (a manifest directory) and the durable copy on disk.
