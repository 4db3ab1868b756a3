"""The cgcnn family."""
