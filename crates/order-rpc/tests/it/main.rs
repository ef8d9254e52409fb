//! The server and the client over real sockets on the loopback interface.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod deadline;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod log;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod retry;
#[cfg(test)]
mod support;
