//! The C ABI of spanring. It is small today: the version only.
