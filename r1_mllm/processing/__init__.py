# SPDX-License-Identifier: Apache-2.0
"""What the model reads: pictures as patches, chats as token ids, and the positions of both.  No Paddle here."""
