//! Starts servers and etcd tools for tests.
