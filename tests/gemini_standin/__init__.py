"""The parts of `gemini_server`: what the Gemini embedding API is taken to do, as a program.

wire      requests in, Google's errors out: parsing and validation
vectors   texts to numbers
answers   prompts in, replies out
quota     contents and tokens per minute, contents per day
faults    everything that can go wrong on the way
files     resumable upload, listing, download
batches   jobs that take their time
"""
