"""What stages on several processes gain over pipeline schedules, data parallel and one process."""
