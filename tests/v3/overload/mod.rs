//! More than a member can do: what keeps a cluster sound goes on, the rest is refused in etcd's words, memory stays bounded.

mod urgent;
