//! The server and the client over real sockets on the loopback interface.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod batch;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod deadline;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_workers;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod log;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod reflection;
#[cfg(test)]
mod retry;
#[cfg(test)]
mod sick;
#[cfg(test)]
mod support;
#[cfg(test)]
mod trace;
mod transport;
#[cfg(test)]
mod workers;
