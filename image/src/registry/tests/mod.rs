//! Against a registry on loopback that says what a test wants.
