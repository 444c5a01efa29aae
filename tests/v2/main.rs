//! Tests of the v2 API: what etcd 3.4 was recorded to answer.

mod recorded;
