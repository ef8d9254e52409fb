//! What never changes about an operation.

/// What never changes about an operation.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its name in the log.
    pub name: &'static str,
    /// The slots it takes one of.
    pub class: Class,
    /// Whether the handler gets the whole body. It takes no slot before that has arrived.
    pub reads_body: bool,
    /// Whether it can answer with a stream, which holds no slot once it has begun.
    pub may_stream: bool,
    /// Whether it has no effect the second time, also without a key.
    pub is_idempotent: bool,
}

impl Facts {
    /// An operation that only reads.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            class: Class::Read,
            reads_body: false,
            may_stream: false,
            is_idempotent: false,
        }
    }
}

/// Which slots an operation takes one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// None: probes, and what has limits of its own.
    Free,
    /// Any of those for work.
    Read,
    /// Those for work that are not kept for reads.
    Write,
    /// Those of lists, of which the database answers few at a time.
    List,
    /// Those of workers that wait for a job.
    Lease,
}
